"""The lab's own verifiers: integers and expressions in x, with the running thought that leads to them."""
