"""From files a hospital has to working copies that recipes can learn from."""
