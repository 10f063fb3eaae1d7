-- Neurons by how far the donor's weights lie from the target's: the largest-delta control.
SELECT
    0.0::DOUBLE AS lookalike_weight, layer, family, neuron, norm AS score,
    row_number() OVER (ORDER BY norm DESC, layer, family, neuron)::INTEGER AS rank
FROM deltas
ORDER BY rank
