-- Views over the tables (which storage/tables.py describes and storage/catalog.py makes). {shards} is the read over the
-- wide shards. Correct: accuracy at least 1 - 1e-6. Ungraded rollouts (accuracy or reward null) leave counts and means.
-- Equal rewards: within 1e-6 of each other.

-- Index first: it decides which rows exist (committed), and its filters prune the shards by their directories.
CREATE VIEW trajectories AS
SELECT i.*, d.prompt, d.completion, d.prompt_token_ids, d.token_ids, d.logprobs
FROM rollouts AS i
JOIN {shards} AS d
    ON i.run = d.run AND i.stage = d.stage AND i.epoch = d.epoch AND i.step = d.step
    AND parse_filename(i.file) = parse_filename(d.filename) AND i.row = d.file_row_number;
COMMENT ON VIEW trajectories IS
    'one row per committed rollout with texts, token ids and log-probabilities (nats), but for pruned epochs; filter by stage, epoch and step';

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
COMMENT ON VIEW groups IS
    'one row per group (the rollouts of one prompt at one step): counts, means, reward variance, and whether all are equal (null: ungraded)';

CREATE VIEW zero_variance AS
SELECT * FROM groups WHERE same_accuracy OR same_reward;
COMMENT ON VIEW zero_variance IS
    'the groups whose graded rollouts have equal accuracy or equal reward (tolerance 1e-6), which teach nothing, with counts and means';

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
COMMENT ON VIEW prompt_stats IS
    'one row per prompt, stage and epoch: rollouts, graded and correct (counts), pass rate (0 to 1), bucket easy, mixed, hard or ungraded, mean length (tokens)';

CREATE VIEW step_stats AS
SELECT *
FROM (
    SELECT
        run, stage, epoch, step,
        max(policy_version) AS policy_version,
        count(*) AS rollouts,
        avg(reward) AS mean_reward,
        avg(accuracy) AS mean_accuracy,
        avg(completion_tokens) AS mean_length,
        quantile_cont(completion_tokens, 0.5) AS median_length,
        quantile_cont(completion_tokens, 0.95) AS p95_length,
        covar_pop(completion_tokens, reward) / nullif(stddev_pop(completion_tokens) * stddev_pop(reward), 0)
            AS length_reward_correlation,
        avg((finish_reason = 'length')::INT) AS truncated
    FROM rollouts
    GROUP BY run, stage, epoch, step
)
JOIN (
    SELECT
        run, stage, epoch, step,
        count(*) AS groups,
        avg(same_accuracy::INT) AS zero_variance_accuracy,
        avg(same_reward::INT) AS zero_variance_reward,
        avg(reward_variance) AS mean_reward_variance
    FROM groups
    GROUP BY run, stage, epoch, step
) USING (run, stage, epoch, step);
COMMENT ON VIEW step_stats IS
    'one row per step: groups and rollouts (counts), means, lengths (tokens), and shares (0 to 1) of truncated rollouts and of graded groups with zero variance';

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
COMMENT ON VIEW epoch_stats IS
    'one row per epoch: visited prompts and rollouts (counts), shares of easy, mixed, hard and ungraded prompts (0 to 1), mean pass rate, mean length (tokens)';

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
COMMENT ON VIEW bucket_transitions IS
    'prompts (a count) that went from one bucket to another between a visit in one epoch and their next visit in a later one';

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
flipped AS (
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
    FROM picked AS k
    JOIN {shards} AS d
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
COMMENT ON VIEW flips IS
    'prompts that went from all wrong at one visit to some right at the next, once per kind (training, evaluation), with counts and one wrong and one right completion';

CREATE VIEW staleness AS
SELECT
    s.run, s.stage, s.epoch, s.step,
    s.policy_version AS sampled_by,
    p.version - 1 AS updated_by,
    p.version - 1 - s.policy_version AS staleness
FROM step_stats AS s
LEFT JOIN policies AS p USING (run, stage, epoch, step);
COMMENT ON VIEW staleness IS
    'one row per step: policy version that sampled, version that its update started from, and their difference in updates (null: not updated yet)';

CREATE MACRO rollouts_of(prompt) AS TABLE
    SELECT * FROM trajectories WHERE prompt_id = prompt ORDER BY run, stage, epoch, step, sample;
COMMENT ON MACRO TABLE rollouts_of IS
    'every committed rollout of one prompt, oldest first, with texts and tokens: FROM rollouts_of(''0123456789abcdef'')';

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
COMMENT ON VIEW sampling_accounts IS
    'one row per step: rollouts that were sampled, used by the update and discarded by dynamic sampling (counts; share 0 to 1), and what the run had sampled by then (rollouts, tokens)';
