"""What crosses siblings: text to a trained model, the demo. One file a workflow."""
