"""Vacuum: are dead rows removed, old rows frozen and the planner's statistics kept?"""
