"""Speaking to a vCenter or an ESXi, for every port that one of them serves."""
