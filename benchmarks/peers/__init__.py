"""The same networks in Keras and in PyTorch."""
