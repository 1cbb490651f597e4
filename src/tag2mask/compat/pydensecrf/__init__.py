"""Stands in for pydensecrf: only the import changes, see `docs/dense-crf.md`.

```python
import tag2mask.compat.pydensecrf.densecrf as dcrf
from tag2mask.compat.pydensecrf.utils import unary_from_softmax
```
"""
