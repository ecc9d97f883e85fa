"""What a model does on probe texts: its loss, its gradients."""
