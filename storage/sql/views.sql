-- Views over the tables (which storage/tables.py describes and storage/catalog.py makes); comments.sql says what each
-- gives. Correct: accuracy at least 1 - 1e-6. Ungraded rollouts (accuracy or reward null) leave counts and means.
-- Equal rewards: within 1e-6 of each other.

-- The shards are named first: a join reads its second side first, and what it found there (runs, steps, rows) then chooses
-- the files and row groups of the first. The index decides which rows exist (committed), and what must be opened.
CREATE VIEW trajectories AS
SELECT i.*, d.prompt, d.completion, d.prompt_token_ids, d.token_ids, d.logprobs
FROM shards AS d
JOIN rollouts AS i
    ON i.run = d.run AND i.stage = d.stage AND i.epoch = d.epoch AND i.step = d.step
    AND parse_filename(i.file) = parse_filename(d.filename) AND i.row = d.file_row_number;

CREATE VIEW groups AS
SELECT
    run, stage, epoch, step, prompt_id,
    any_value(domain) AS domain,
    any_value(difficulty) AS difficulty,
    max(policy_version) AS policy_version,
    count(*) AS rollouts,
    count(accuracy) AS graded,
    count(*) FILTER (WHERE accuracy >= 1 - 1e-6) AS correct,
    avg(accuracy) AS accuracy,
    avg(reward) AS reward,
    var_pop(reward) AS reward_variance,
    max(accuracy) - min(accuracy) <= 1e-6 AS same_accuracy,
    max(reward) - min(reward) <= 1e-6 AS same_reward
FROM rollouts
GROUP BY run, stage, epoch, step, prompt_id;

CREATE VIEW zero_variance AS
SELECT * FROM groups WHERE same_accuracy OR same_reward;

CREATE VIEW prompt_stats AS
SELECT
    *,
    correct / nullif(graded, 0) AS pass_rate,
    CASE WHEN graded = 0 THEN 'ungraded' WHEN correct = graded THEN 'easy' WHEN correct = 0 THEN 'hard' ELSE 'mixed' END AS bucket
FROM (
    SELECT
        run, stage, epoch, prompt_id,
        any_value(domain) AS domain,
        any_value(difficulty) AS difficulty,
        count(*) AS rollouts,
        count(accuracy) AS graded,
        count(*) FILTER (WHERE accuracy >= 1 - 1e-6) AS correct,
        avg(reward) AS mean_reward,
        avg(completion_tokens) AS mean_length
    FROM rollouts
    GROUP BY run, stage, epoch, prompt_id
);

-- The rollouts are read once for both: over thousands of files, opening them is what takes the time.
CREATE VIEW step_stats AS
WITH read_once AS MATERIALIZED (
    SELECT run, stage, epoch, step, prompt_id, policy_version, completion_tokens, finish_reason, accuracy, reward
    FROM rollouts
),
of_rollouts AS (
    SELECT
        run, stage, epoch, step,
        max(policy_version) AS policy_version,
        count(*) AS rollouts,
        avg(reward) AS mean_reward,
        avg(accuracy) AS mean_accuracy,
        avg(completion_tokens) AS mean_length,
        quantile_cont(completion_tokens, 0.5) AS median_length,
        quantile_cont(completion_tokens, 0.95) AS p95_length,
        covar_pop(completion_tokens, reward)
            / nullif(stddev_pop(completion_tokens) FILTER (reward IS NOT NULL) * stddev_pop(reward), 0)
            AS length_reward_correlation,
        avg((finish_reason = 'length')::INT) AS truncated
    FROM read_once
    GROUP BY ALL
),
of_groups AS (
    SELECT
        run, stage, epoch, step,
        count(*) AS groups,
        avg(same_accuracy::INT) AS zero_variance_accuracy,
        avg(same_reward::INT) AS zero_variance_reward,
        avg(reward_variance) AS mean_reward_variance
    FROM (
        SELECT
            run, stage, epoch, step, prompt_id,
            max(accuracy) - min(accuracy) <= 1e-6 AS same_accuracy,
            max(reward) - min(reward) <= 1e-6 AS same_reward,
            var_pop(reward) AS reward_variance
        FROM read_once
        GROUP BY ALL
    )
    GROUP BY ALL
)
SELECT * FROM of_rollouts JOIN of_groups USING (run, stage, epoch, step);

CREATE VIEW epoch_stats AS
SELECT
    run, stage, epoch,
    count(*) AS prompts,
    sum(rollouts)::BIGINT AS rollouts,
    avg((bucket = 'easy')::INT) AS easy,
    avg((bucket = 'mixed')::INT) AS mixed,
    avg((bucket = 'hard')::INT) AS hard,
    avg((bucket = 'ungraded')::INT) AS ungraded,
    avg(pass_rate) AS mean_pass_rate,
    sum(mean_length * rollouts) / sum(rollouts) AS mean_length
FROM prompt_stats
GROUP BY run, stage, epoch;

-- The correlation is over graded rollouts, as covar_pop leaves out rows with a null. All percentiles are of one sort.
CREATE VIEW length_percentiles AS
SELECT
    run, stage, epoch, domain, rollouts,
    p[1] AS p05, p[2] AS p25, p[3] AS p50, p[4] AS p75, p[5] AS p95, p[6] AS p99,
    longest, mean_correct, mean_wrong, reward_correlation
FROM (
    SELECT
        run, stage, epoch, domain,
        count(*) AS rollouts,
        quantile_cont(completion_tokens, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99]) AS p,
        max(completion_tokens) AS longest,
        avg(completion_tokens) FILTER (accuracy >= 1 - 1e-6) AS mean_correct,
        avg(completion_tokens) FILTER (accuracy < 1 - 1e-6) AS mean_wrong,
        covar_pop(completion_tokens, reward)
            / nullif(stddev_pop(completion_tokens) FILTER (reward IS NOT NULL) * stddev_pop(reward), 0)
            AS reward_correlation
    FROM rollouts
    GROUP BY ALL
);

CREATE VIEW bucket_transitions AS
SELECT run, from_stage, from_epoch, to_stage, to_epoch, from_bucket, to_bucket, count(*) AS prompts
FROM (
    SELECT
        run, stage AS to_stage, epoch AS to_epoch, bucket AS to_bucket,
        lag(stage) OVER visits AS from_stage, lag(epoch) OVER visits AS from_epoch, lag(bucket) OVER visits AS from_bucket
    FROM prompt_stats
    WINDOW visits AS (PARTITION BY run, prompt_id ORDER BY stage, epoch)
)
WHERE from_bucket IS NOT NULL
GROUP BY ALL;

-- One flip per prompt and kind: the first visit with a correct rollout after a visit whose graded rollouts were all wrong,
-- with the first wrong and the first correct rollout of the two. Training texts come from the shards of those two alone.
CREATE VIEW flips AS
WITH graded AS (
    SELECT 'training' AS kind, run, stage, epoch, step, prompt_id, domain, difficulty, sample, accuracy, file, row,
           NULL AS completion
    FROM rollouts WHERE accuracy IS NOT NULL
    UNION ALL
    SELECT 'evaluation', run, stage, epoch, 0, prompt_id, domain, difficulty, sample, accuracy, NULL, NULL, completion
    FROM evaluation_rollouts WHERE accuracy IS NOT NULL
),
visits AS (
    SELECT
        kind, run, prompt_id, domain, difficulty, stage, epoch,
        count(*) AS graded,
        count(*) FILTER (WHERE accuracy >= 1 - 1e-6) AS correct,
        arg_min({step: step, file: file, row: row, completion: completion}, (step, sample))
            FILTER (WHERE accuracy < 1 - 1e-6) AS wrong,
        arg_min({step: step, file: file, row: row, completion: completion}, (step, sample))
            FILTER (WHERE accuracy >= 1 - 1e-6) AS solved
    FROM graded
    GROUP BY ALL
),
paired AS (
    SELECT *, lag(stage) OVER before AS from_stage, lag(epoch) OVER before AS from_epoch,
           lag(graded) OVER before AS from_graded, lag(correct) OVER before AS from_correct, lag(wrong) OVER before AS example
    FROM visits
    WINDOW before AS (PARTITION BY kind, run, prompt_id ORDER BY stage, epoch)
),
flipped AS MATERIALIZED (
    SELECT * FROM paired WHERE from_correct = 0 AND correct > 0
    QUALIFY row_number() OVER (PARTITION BY kind, run, prompt_id ORDER BY stage, epoch) = 1
),
picked AS (
    SELECT run, prompt_id, false AS solves, from_stage AS stage, from_epoch AS epoch, example AS pick
    FROM flipped WHERE kind = 'training'
    UNION ALL
    SELECT run, prompt_id, true, stage, epoch, solved FROM flipped WHERE kind = 'training'
),
-- One join for both texts: two reads of the shards would first be joined with each other.
texts AS (
    SELECT
        'training' AS kind, k.run, k.prompt_id,
        any_value(d.completion) FILTER (WHERE NOT k.solves) AS wrong,
        any_value(d.completion) FILTER (WHERE k.solves) AS solved
    FROM shards AS d
    JOIN picked AS k
        ON d.run = k.run AND d.stage = k.stage AND d.epoch = k.epoch AND d.step = k.pick.step
        AND parse_filename(d.filename) = parse_filename(k.pick.file) AND d.file_row_number = k.pick.row
    GROUP BY ALL
)
SELECT
    f.kind, f.run, f.prompt_id, f.domain, f.difficulty, p.question, p.answer,
    f.from_stage, f.from_epoch, f.from_graded, f.stage AS to_stage, f.epoch AS to_epoch,
    f.graded AS to_graded, f.correct AS to_correct,
    coalesce(f.example.completion, t.wrong) AS wrong_completion,
    coalesce(f.solved.completion, t.solved) AS right_completion
FROM flipped AS f
LEFT JOIN (SELECT run, prompt_id, any_value(question) AS question, any_value(answer) AS answer FROM prompts GROUP BY ALL) AS p
    USING (run, prompt_id)
LEFT JOIN texts AS t ON t.kind = f.kind AND t.run = f.run AND t.prompt_id = f.prompt_id;

CREATE VIEW staleness AS
SELECT
    s.run, s.stage, s.epoch, s.step,
    s.policy_version AS sampled_by,
    p.version - 1 AS updated_by,
    p.version - 1 - s.policy_version AS staleness,
    s.rollouts
FROM (SELECT run, stage, epoch, step, policy_version, count(*) AS rollouts FROM rollouts GROUP BY ALL) AS s
LEFT JOIN policies AS p USING (run, stage, epoch, step);

-- Macros that give rows. Call them with literals: from these DuckDB chooses the files to open, from a subquery it cannot.

CREATE MACRO rollouts_of(prompt) AS TABLE
    SELECT * FROM trajectories WHERE prompt_id = prompt ORDER BY run, stage, epoch, step, sample;

-- The text is sought as it is, with no pattern: '%' and '_' stand for themselves.
CREATE MACRO search(text, stage, epoch) AS TABLE
    SELECT
        t.run, t.stage, t.epoch, t.step, t.prompt_id, t.sample, t.accuracy, t.reward,
        CASE WHEN t.at_completion > 0 THEN 'completion' ELSE 'prompt' END AS found_in,
        CASE
            WHEN t.at_completion > 0 THEN substr(t.completion, greatest(t.at_completion - 40, 1), 80 + length(text))
            ELSE substr(t.prompt, greatest(t.at_prompt - 40, 1), 80 + length(text))
        END AS excerpt
    FROM (
        SELECT
            *,
            instr(lower(completion), lower(text)) AS at_completion,
            instr(lower(prompt), lower(text)) AS at_prompt
        FROM trajectories AS a
        WHERE a.stage = stage AND a.epoch = epoch
    ) AS t
    WHERE t.at_completion > 0 OR t.at_prompt > 0
    ORDER BY t.run, t.step, t.position;

-- Among equal rewards the first that was sampled; a prompt with one graded rollout is its own best and worst.
CREATE MACRO best_and_worst(prompt) AS TABLE
    WITH graded AS MATERIALIZED (FROM rollouts WHERE prompt_id = prompt AND reward IS NOT NULL),
    picked AS (
        SELECT *, 'best' AS which FROM graded
        QUALIFY row_number() OVER (PARTITION BY run ORDER BY reward DESC, stage, epoch, step, position) = 1
        UNION ALL
        SELECT *, 'worst' FROM graded
        QUALIFY row_number() OVER (PARTITION BY run ORDER BY reward, stage, epoch, step, position) = 1
    )
    SELECT
        k.which, k.run, k.stage, k.epoch, k.step, k.policy_version, k.sample, k.reward, k.accuracy, k.verdict,
        k.completion_tokens, k.finish_reason, d.prompt, d.completion
    FROM shards AS d
    JOIN picked AS k
        ON d.run = k.run AND d.stage = k.stage AND d.epoch = k.epoch AND d.step = k.step
        AND parse_filename(d.filename) = parse_filename(k.file) AND d.file_row_number = k.row
    ORDER BY k.run, k.which;

CREATE VIEW sampling_accounts AS
SELECT
    *,
    discarded / rollouts AS discarded_share,
    sum(rollouts) OVER so_far::BIGINT AS rollouts_so_far,
    sum(tokens) OVER so_far::BIGINT AS tokens_so_far
FROM (
    SELECT
        run, stage, epoch, step,
        count(*) AS rollouts,
        count(*) FILTER (used) AS used,
        count(*) FILTER (NOT used) AS discarded,
        sum(completion_tokens)::BIGINT AS tokens
    FROM rollouts
    GROUP BY run, stage, epoch, step
)
WINDOW so_far AS (PARTITION BY run ORDER BY stage, epoch, step);
