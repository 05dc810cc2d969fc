"""Evaluation on real ultrasound: what can be measured of it although no image has its MR."""
