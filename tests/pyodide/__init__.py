"""The client on Pythons that are not out everywhere yet: as WebAssembly within node, over node's sockets."""
