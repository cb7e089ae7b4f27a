"""Integrity: can what is stored be trusted?"""
