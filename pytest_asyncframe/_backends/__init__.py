"""What tests run on besides memory: real stores, as users deploy them."""
