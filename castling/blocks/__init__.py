"""What a block is made of besides its operator: closed forms here, torch modules apart."""
