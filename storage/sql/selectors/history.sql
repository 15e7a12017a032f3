-- The paper's rule (History Resampling): of the prompts that epoch $epoch of stage $stage sampled, drop those whose
-- graded rollouts were all correct, and keep the rest: the mixed ones teach now, the hard ones may later.
-- Prepared: epoch_prompts (the prompts kept for that epoch), epoch_rollouts (its committed rollouts, narrow columns).
-- Correct: accuracy at least 1 - 1e-6, whatever the reward. Ungraded rollouts (accuracy null) leave the count; a prompt
-- without any, or without a visit, has shown nothing and stays. A dropped prompt is no candidate again.
WITH visits AS (
    SELECT
        prompt_id,
        count(*) AS rollouts,
        count(accuracy) AS graded,
        count(*) FILTER (WHERE accuracy >= 1 - 1e-6) AS correct
    FROM epoch_rollouts
    WHERE stage = $stage AND epoch = $epoch
    GROUP BY prompt_id
),
judged AS (
    SELECT
        p.prompt_id,
        coalesce(v.rollouts, 0) AS rollouts,
        coalesce(v.graded, 0) AS graded,
        coalesce(v.correct, 0) AS correct,
        CASE
            WHEN v.prompt_id IS NULL THEN 'unvisited'
            WHEN v.graded = 0 THEN 'ungraded'
            WHEN v.correct = v.graded THEN 'easy'
            WHEN v.correct = 0 THEN 'hard'
            ELSE 'mixed'
        END AS bucket
    FROM epoch_prompts AS p
    LEFT JOIN visits AS v USING (prompt_id)
    WHERE p.stage = $stage AND p.epoch = $epoch
)
SELECT
    prompt_id,
    bucket <> 'easy' AS keep,
    bucket,
    CASE bucket
        WHEN 'unvisited' THEN 'not visited in this epoch: stays'
        WHEN 'ungraded' THEN format('none of {} rollouts graded: stays', rollouts)
        WHEN 'easy' THEN format('all {} correct: too easy', graded)
        WHEN 'hard' THEN format('none of {} correct: too hard yet, stays', graded)
        ELSE format('{} of {} correct: informative', correct, graded)
    END AS reason,
    graded,
    correct,
    correct / nullif(graded, 0) AS pass_rate
FROM judged
ORDER BY prompt_id
