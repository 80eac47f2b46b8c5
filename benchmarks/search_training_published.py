"""Published Megatron-LM configurations among all legal ones, by prediction: how far they are from the best, and where
they rank.

For each run of SC 2021's table 1, of Megatron-LM's H100 table and of Megatron-Bridge's summaries: every legal
configuration on the same GPUs, batch, sequence and formats is priced. The best that fits is no slower than the
published one where that is legal and fits; the published one should rank in the top tenth in four of five cases.
"""
