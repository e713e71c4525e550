"""The verbs of the command line: arguments in, one public function called, text and JSON out."""
