"""Papers of a bundle: bill of materials, provenance and licence report, written at build and attached as referrers."""
