"""The machines that the model can be: recordings of real ones, and what makes devices of them."""
