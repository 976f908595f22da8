"""The built-in nano FLUX: a few million parameters in the real layout, with a tiny autoencoder and text encoder of its own."""
