"""The command line: thin verbs over `florence.sdk`."""
