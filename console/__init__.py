"""The commands, and what they are made of: choosing an encoder, gathering queries, printing."""
