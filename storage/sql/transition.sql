-- When a training stage ends: what is measured (stage_progress) and the rule over it (stage_decision).

-- How far a stage has come, on one scale while its prompts change. A step's own accuracy says little: History
-- Resampling drops what is solved, so that it falls while the policy improves; dynamic sampling and other selectors
-- push it toward the middle. So each step speaks for all prompts that the stage began with:
--   * the prompts that the epoch was planned with, by the step's rollouts of its planned prompts, used or discarded;
--     refills are left out: how many there are depends on how the others went;
--   * the prompts that the epoch leaves out, each by the accuracy of its last visit before (for `history`: 1, as only
--     solved prompts are left out). A prompt that was never graded speaks for nothing.
-- Steps whose rollouts are all ungraded have no accuracy (null).
CREATE VIEW stage_progress AS
WITH base AS (
    SELECT run, stage, prompt_id FROM decisions WHERE epoch = 0 AND keep
),
planned AS (
    SELECT run, stage, epoch, step, prompt_id
    FROM decisions SEMI JOIN base USING (run, stage, prompt_id)
    WHERE keep
),
step_accuracy AS (
    SELECT run, stage, epoch, step, avg(accuracy) FILTER (WHERE p.prompt_id IS NOT NULL) AS accuracy
    FROM rollouts LEFT JOIN planned AS p USING (run, stage, epoch, step, prompt_id)
    GROUP BY run, stage, epoch, step
),
seen AS (
    SELECT run, stage, epoch, prompt_id, avg(accuracy) AS accuracy
    FROM rollouts
    GROUP BY run, stage, epoch, prompt_id
),
standing AS (
    SELECT
        run, stage, epoch,
        p.prompt_id IS NOT NULL AS is_planned,
        last_value(s.accuracy IGNORE NULLS) OVER (PARTITION BY run, stage, prompt_id ORDER BY epoch) AS last_accuracy
    FROM base
    JOIN (SELECT run, stage, epoch FROM epochs) USING (run, stage)
    LEFT JOIN planned AS p USING (run, stage, epoch, prompt_id)
    LEFT JOIN seen AS s USING (run, stage, epoch, prompt_id)
),
pools AS (
    SELECT
        run, stage, epoch,
        count(*) FILTER (is_planned) AS present,
        count(last_accuracy) FILTER (NOT is_planned) AS absent,
        coalesce(sum(last_accuracy) FILTER (NOT is_planned), 0) AS absent_accuracy
    FROM standing
    GROUP BY run, stage, epoch
)
SELECT
    run, stage, epoch, step,
    row_number() OVER (PARTITION BY run, stage ORDER BY epoch, step) - 1 AS n,
    (accuracy * present + absent_accuracy) / (present + absent) AS accuracy
FROM step_accuracy
JOIN pools USING (run, stage, epoch);

-- Whether stage `of_stage` goes on after its epoch `after_epoch`: by the first that holds,
--   it ends when fewer than `min_prompts` prompts are left to learn from,
--   it ends when it took `max_steps` steps or more,
--   stage 1 ends when it is flat: a line through the last `window_steps` graded steps rises by less than `min_gain`
--   over as many steps (fewer steps decide nothing),
--   and goes on otherwise. Stage 1 ends with a switch to stage 2, stage 2 with the run; so does stage 1 of a run that
--   trains on math alone: a second stage would have nothing to add.
-- One row per run, once the epoch after is decided; it looks at nothing later, so past decisions can be made again.
CREATE MACRO stage_decision(of_stage, after_epoch, window_steps, min_gain, max_steps, min_prompts) AS TABLE
WITH taken AS (
    SELECT run, sum(steps)::BIGINT AS steps
    FROM epochs WHERE stage = of_stage AND epoch <= after_epoch
    GROUP BY run
),
remaining AS (
    SELECT run, count(*) FILTER (keep) AS prompts
    FROM decisions WHERE stage = of_stage AND epoch = after_epoch + 1
    GROUP BY run
),
recent AS (
    SELECT run, n, accuracy
    FROM stage_progress
    WHERE stage = of_stage AND epoch <= after_epoch AND accuracy IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY run ORDER BY n DESC) <= window_steps
),
fit AS (
    SELECT run, CASE WHEN count(*) = window_steps THEN regr_slope(accuracy, n) END AS slope
    FROM recent
    GROUP BY run
),
by_math_alone AS (
    SELECT run FROM prompts WHERE split = 'train' GROUP BY run HAVING count(*) FILTER (domain = 'code') = 0
),
judged AS (
    SELECT
        run, of_stage <> 1 OR run IN (FROM by_math_alone) AS is_last, prompts, steps, slope, slope * window_steps AS gain,
        CASE
            WHEN prompts < min_prompts THEN 'dry'
            WHEN steps >= max_steps THEN 'limit'
            WHEN of_stage = 1 AND slope * window_steps < min_gain THEN 'flat'
            ELSE 'on'
        END AS outcome
    FROM taken JOIN remaining USING (run) LEFT JOIN fit USING (run)
)
SELECT
    run,
    CASE WHEN outcome = 'on' THEN 'continue' WHEN is_last THEN 'finish' ELSE 'switch' END AS decision,
    CASE outcome
        WHEN 'dry' THEN format('{} prompts are left to learn from, fewer than {}', prompts, min_prompts)
        WHEN 'limit' THEN format('the step limit of {} is reached ({} steps)', max_steps, steps)
        WHEN 'flat' THEN format(
            'the math accuracy is flat: {:+.3f} over {} steps, less than {}', gain, window_steps, min_gain::DOUBLE)
        ELSE format('{} of at most {} steps; ', steps, max_steps) || coalesce(
            format('accuracy {:+.3f} over {} steps', gain, window_steps),
            format('fewer than the {} of a window', window_steps))
    END AS reason,
    slope, gain, window_steps::BIGINT AS "window", steps, prompts
FROM judged
ORDER BY run;
