"""What is in a safetensors file: header, architecture, precision, key maps, atomic writing."""
