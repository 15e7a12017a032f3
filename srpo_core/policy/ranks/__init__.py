"""An update by several processes: what each does, how they are started, and how batches reach them."""
