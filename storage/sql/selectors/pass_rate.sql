-- The rule: a prompt whose pass rate reached $solved_pass_rate in one visit is dropped for ever.
-- Source: open-instruct's no_resampling_pass_rate (0.875 in its scripts).
-- Ours: accuracy decides, over the graded rollouts of an epoch. No floor: the stage ends when fewer prompts are left
-- than a step needs (open-instruct's users met an empty pool).
WITH solved AS (
    SELECT prompt_id, max(age) AS age, arg_max({graded: graded, correct: correct}, age) AS at
    FROM visits
    WHERE graded > 0 AND correct / graded >= $solved_pass_rate - 1e-9
    GROUP BY prompt_id
)
SELECT
    s.prompt_id,
    d.prompt_id IS NULL AS keep,
    d.prompt_id IS NOT NULL AS for_ever,
    s.bucket,
    CASE
        WHEN d.prompt_id IS NULL THEN shown(s.bucket, s.graded, s.correct) || ': stays'
        ELSE format('{} of {} correct {}: solved, dropped for ever', d.at.correct, d.at.graded, ago(d.age))
    END AS reason,
    coalesce(d.at.graded, s.graded) AS graded,
    coalesce(d.at.correct, s.correct) AS correct,
    coalesce(d.at.correct / d.at.graded, s.pass_rate) AS pass_rate
FROM standing AS s
LEFT JOIN solved AS d USING (prompt_id)
