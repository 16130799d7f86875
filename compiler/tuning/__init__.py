"""Measured schedules: what a kernel is known by, records of what was fastest on a device, and the choice by them."""
