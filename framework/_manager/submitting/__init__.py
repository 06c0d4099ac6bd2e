"""How a task is submitted: checked, admitted to its places, delayed, made and handed on."""
