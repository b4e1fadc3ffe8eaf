"""What is installed beside the program: man pages and completions."""
