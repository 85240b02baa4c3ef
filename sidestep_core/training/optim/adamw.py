"""AdamW without torch's compiler, whose import takes longer than all else before the first step."""

from __future__ import annotations

import inspect

import torch


class AdamW(torch.optim.AdamW):
    """torch's AdamW, the same number for number.

    torch wraps these methods so that the compiler leaves them alone, and imports it for that at the first call.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
