"""Dense detection: anchors, their targets, box coding, suppression, losses, metrics and costs.

The detector itself is `losslab.experiments.models.retinanet`; what is here is what stands around
it. Boxes are (x1, y1, x2, y2) in pixels of the stored image, continuous, with x2 > x1.
"""
