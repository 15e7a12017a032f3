-- The rule: prompts lie in pools by their last visit, easy (all correct), mixed and hard (all wrong), and are sampled
-- with the pool's probability: $weight_easy, $weight_mixed, $weight_hard. What was not visited or graded is sampled.
-- Source: the difficulty pools of prime-rl (easy and hard pools, of which fractions are let back in).
-- Ours: a draw for every prompt and epoch, where prime-rl moves fractions of the pools when a run is loaded; the floor.
SELECT
    prompt_id,
    weight,
    bucket,
    CASE
        WHEN bucket IN ('unvisited', 'ungraded') THEN shown(bucket, graded, correct) || ': stays'
        ELSE format('{}: sampled with probability {}', shown(bucket, graded, correct), weight)
    END AS reason,
    graded, correct, pass_rate
FROM (
    SELECT
        *,
        CASE bucket WHEN 'easy' THEN $weight_easy WHEN 'mixed' THEN $weight_mixed WHEN 'hard' THEN $weight_hard ELSE 1 END
            ::DOUBLE AS weight
    FROM standing
)
