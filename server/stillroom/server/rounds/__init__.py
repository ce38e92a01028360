"""Pure decisions of a round: no I/O, no Flower, no clock."""
