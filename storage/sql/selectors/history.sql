-- The rule: of the prompts that the epoch just finished sampled, drop those whose graded rollouts were all correct, for
-- ever; keep the rest: the mixed ones teach now, the hard ones may later.
-- Source: SRPO (arXiv 2504.14286), History Resampling.
-- Ours: accuracy decides, whatever the reward; ungraded rollouts leave the count; a prompt without any, or without a
-- visit, has shown nothing and stays. No floor: the stage ends when fewer prompts are left than a step needs.
WITH judged AS (
    SELECT
        c.prompt_id,
        CASE
            WHEN NOT c.sampled AND c.bucket = 'easy' THEN 'out'
            WHEN NOT c.sampled OR v.prompt_id IS NULL THEN 'unvisited'
            WHEN v.graded = 0 THEN 'ungraded'
            WHEN v.correct = v.graded THEN 'easy'
            WHEN v.correct = 0 THEN 'hard'
            ELSE 'mixed'
        END AS finding,
        coalesce(v.rollouts, 0) AS rollouts,
        CASE WHEN finding = 'out' THEN c.graded ELSE coalesce(v.graded, 0) END AS graded,
        CASE WHEN finding = 'out' THEN c.correct ELSE coalesce(v.correct, 0) END AS correct
    FROM candidates AS c
    LEFT JOIN epoch_visits AS v USING (prompt_id)
)
SELECT
    prompt_id,
    finding NOT IN ('easy', 'out') AS keep,
    finding IN ('easy', 'out') AS for_ever,
    CASE finding WHEN 'out' THEN 'easy' ELSE finding END AS bucket,
    CASE finding
        WHEN 'out' THEN 'dropped before: stays out'
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
