"""What the command line is made of: choosing an encoder, gathering queries, printing."""
