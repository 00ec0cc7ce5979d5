"""What a notebook shows: pages of HTML that stand still, and widgets that live.

A guest of the library: everything here is made of the public API. `html` needs nothing installed; the
widgets need ``streamlab[notebook]``. Nothing here imports IPython or ipywidgets before it is used.
"""

__all__: list[str] = []
