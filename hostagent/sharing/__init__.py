"""Who gets what of a link: kinds and worths, the embedded gateway's price, data plans, the link's rate. Pure cores."""
