"""The mathematics in one sitting (paper 2.2): weights -> logits. Importing it imports no torch."""
