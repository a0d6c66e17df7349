"""Backbone families behind one small interface."""
