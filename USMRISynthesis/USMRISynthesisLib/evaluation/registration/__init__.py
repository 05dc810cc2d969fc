"""Whether synthesis helps to register ultrasound with MR."""
