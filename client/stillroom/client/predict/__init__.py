"""From a scan and a release to label maps, points and a picture, on the scan's own grid."""
