-- What the views, their columns and the macros give, with units. Columns that rollouts have under the same name
-- (run, stage, prompt_id, ...) take the comment from there, in storage/views.py, unless they have one here.

COMMENT ON VIEW shards IS
    'one row per published rollout, committed or not, with texts and tokens, and where it lies; trajectories has the committed ones';
COMMENT ON COLUMN shards.filename IS 'path of the shard';
COMMENT ON COLUMN shards.file_row_number IS 'row within the shard, from 0';

COMMENT ON VIEW trajectories IS
    'one row per committed rollout with texts, token ids and log-probabilities (nats), but for pruned epochs; filter by stage, epoch and step';

COMMENT ON VIEW groups IS
    'one row per group (the rollouts of one prompt at one step): counts, means, reward variance, and whether all are equal (null: ungraded)';
COMMENT ON COLUMN groups.rollouts IS 'rollouts of the group, a count';
COMMENT ON COLUMN groups.graded IS 'those with an accuracy, a count';
COMMENT ON COLUMN groups.correct IS 'those with accuracy 1 (within 1e-6), a count';
COMMENT ON COLUMN groups.accuracy IS 'mean accuracy of the graded ones, 0 to 1; null: none graded';
COMMENT ON COLUMN groups.reward IS 'mean total reward; null: none graded';
COMMENT ON COLUMN groups.reward_variance IS 'population variance of the total reward; null: none graded';
COMMENT ON COLUMN groups.same_accuracy IS 'whether all accuracies are equal (within 1e-6); null: none graded';
COMMENT ON COLUMN groups.same_reward IS
    'whether all total rewards are equal (within 1e-6), so that the advantage is zero; null: none graded';

COMMENT ON VIEW zero_variance IS
    'the groups whose graded rollouts have equal accuracy or equal reward (tolerance 1e-6), which teach nothing, with counts and means';
COMMENT ON COLUMN zero_variance.rollouts IS 'rollouts of the group, a count';
COMMENT ON COLUMN zero_variance.graded IS 'those with an accuracy, a count';
COMMENT ON COLUMN zero_variance.correct IS 'those with accuracy 1 (within 1e-6), a count';
COMMENT ON COLUMN zero_variance.accuracy IS 'mean accuracy of the graded ones, 0 to 1; null: none graded';
COMMENT ON COLUMN zero_variance.reward IS 'mean total reward; null: none graded';
COMMENT ON COLUMN zero_variance.reward_variance IS 'population variance of the total reward; null: none graded';
COMMENT ON COLUMN zero_variance.same_accuracy IS 'whether all accuracies are equal (within 1e-6); null: none graded';
COMMENT ON COLUMN zero_variance.same_reward IS
    'whether all total rewards are equal (within 1e-6), so that the advantage is zero; null: none graded';

COMMENT ON VIEW prompt_stats IS
    'one row per prompt, stage and epoch: rollouts, graded and correct (counts), pass rate (0 to 1), bucket easy, mixed, hard or ungraded, mean length (tokens)';
COMMENT ON COLUMN prompt_stats.rollouts IS 'rollouts of the prompt in the epoch, a count';
COMMENT ON COLUMN prompt_stats.graded IS 'those with an accuracy, a count';
COMMENT ON COLUMN prompt_stats.correct IS 'those with accuracy 1 (within 1e-6), a count';
COMMENT ON COLUMN prompt_stats.mean_reward IS 'mean total reward of the graded ones; null: none graded';
COMMENT ON COLUMN prompt_stats.mean_length IS 'mean completion length, in tokens';
COMMENT ON COLUMN prompt_stats.pass_rate IS 'correct / graded, 0 to 1; null: none graded';
COMMENT ON COLUMN prompt_stats.bucket IS 'easy (all graded ones correct), mixed, hard (none correct) or ungraded';

COMMENT ON VIEW step_stats IS
    'one row per step: groups and rollouts (counts), means, lengths (tokens), and shares (0 to 1) of truncated rollouts and of graded groups with zero variance';
COMMENT ON COLUMN step_stats.rollouts IS 'rollouts of the step, a count';
COMMENT ON COLUMN step_stats.mean_reward IS 'mean total reward of the graded rollouts';
COMMENT ON COLUMN step_stats.mean_accuracy IS 'mean accuracy of the graded rollouts, 0 to 1';
COMMENT ON COLUMN step_stats.mean_length IS 'mean completion length, in tokens';
COMMENT ON COLUMN step_stats.median_length IS 'median completion length, in tokens';
COMMENT ON COLUMN step_stats.p95_length IS '95th percentile of the completion length, in tokens';
COMMENT ON COLUMN step_stats.length_reward_correlation IS
    'Pearson correlation of completion length and total reward over the graded rollouts, -1 to 1; null: one of them is constant';
COMMENT ON COLUMN step_stats.truncated IS 'share of completions cut at the maximum length, 0 to 1';
COMMENT ON COLUMN step_stats.groups IS 'groups of the step, a count';
COMMENT ON COLUMN step_stats.zero_variance_accuracy IS
    'share of graded groups whose accuracies are all equal (within 1e-6), 0 to 1';
COMMENT ON COLUMN step_stats.zero_variance_reward IS
    'share of graded groups whose total rewards are all equal (within 1e-6), 0 to 1';
COMMENT ON COLUMN step_stats.mean_reward_variance IS
    'mean over the groups of the population variance of the total reward';

COMMENT ON VIEW epoch_stats IS
    'one row per epoch: visited prompts and rollouts (counts), shares of easy, mixed, hard and ungraded prompts (0 to 1), mean pass rate, mean length (tokens)';
COMMENT ON COLUMN epoch_stats.prompts IS 'prompts visited, a count';
COMMENT ON COLUMN epoch_stats.rollouts IS 'rollouts of the epoch, a count';
COMMENT ON COLUMN epoch_stats.easy IS 'share of prompts whose graded rollouts were all correct, 0 to 1';
COMMENT ON COLUMN epoch_stats.mixed IS 'share of prompts with correct and wrong rollouts, 0 to 1';
COMMENT ON COLUMN epoch_stats.hard IS 'share of prompts with no correct rollout, 0 to 1';
COMMENT ON COLUMN epoch_stats.ungraded IS 'share of prompts with no graded rollout, 0 to 1';
COMMENT ON COLUMN epoch_stats.mean_pass_rate IS 'mean over the graded prompts of their pass rate, 0 to 1';
COMMENT ON COLUMN epoch_stats.mean_length IS 'mean completion length, in tokens';

COMMENT ON VIEW length_percentiles IS
    'one row per epoch and domain: percentiles of the completion length (tokens), mean length of correct and of wrong ones, and correlation with reward (-1 to 1)';
COMMENT ON COLUMN length_percentiles.rollouts IS 'rollouts, a count';
COMMENT ON COLUMN length_percentiles.p05 IS '5th percentile of the completion length, in tokens';
COMMENT ON COLUMN length_percentiles.p25 IS '25th percentile, in tokens';
COMMENT ON COLUMN length_percentiles.p50 IS 'median, in tokens';
COMMENT ON COLUMN length_percentiles.p75 IS '75th percentile, in tokens';
COMMENT ON COLUMN length_percentiles.p95 IS '95th percentile, in tokens';
COMMENT ON COLUMN length_percentiles.p99 IS '99th percentile, in tokens';
COMMENT ON COLUMN length_percentiles.longest IS 'longest completion, in tokens';
COMMENT ON COLUMN length_percentiles.mean_correct IS 'mean length of the correct rollouts, in tokens; null: none';
COMMENT ON COLUMN length_percentiles.mean_wrong IS
    'mean length of the graded rollouts that are not correct, in tokens; null: none';
COMMENT ON COLUMN length_percentiles.reward_correlation IS
    'Pearson correlation of completion length and total reward over the graded rollouts, -1 to 1; null: one of them is constant';

COMMENT ON VIEW bucket_transitions IS
    'prompts (a count) that went from one bucket (easy, mixed, hard, ungraded) to another between a visit in one epoch and their next visit in a later one; the table transitions tells of stages instead';
COMMENT ON COLUMN bucket_transitions.from_stage IS 'stage of the earlier visit';
COMMENT ON COLUMN bucket_transitions.from_epoch IS 'epoch of the earlier visit, within its stage';
COMMENT ON COLUMN bucket_transitions.to_stage IS 'stage of the next visit';
COMMENT ON COLUMN bucket_transitions.to_epoch IS 'epoch of the next visit, within its stage';
COMMENT ON COLUMN bucket_transitions.from_bucket IS 'bucket at the earlier visit';
COMMENT ON COLUMN bucket_transitions.to_bucket IS 'bucket at the next visit';
COMMENT ON COLUMN bucket_transitions.prompts IS 'prompts that went this way, a count';

COMMENT ON VIEW stage_progress IS
    'one row per step, numbered n within its stage: accuracy (0 to 1) over all prompts that the stage began with, those left out of the epoch counted as at their last visit (null: ungraded)';
COMMENT ON COLUMN stage_progress.n IS 'number of the step within its stage, from 0';
COMMENT ON COLUMN stage_progress.accuracy IS
    'mean accuracy, 0 to 1, over all prompts that the stage began with; null: none graded';

COMMENT ON VIEW sampling_accounts IS
    'one row per step: rollouts that were sampled, used by the update and discarded by dynamic sampling (counts; share 0 to 1), and what the run had sampled by then (rollouts, tokens)';
COMMENT ON COLUMN sampling_accounts.rollouts IS 'rollouts that the step sampled, a count';
COMMENT ON COLUMN sampling_accounts.used IS 'those that its update used, a count';
COMMENT ON COLUMN sampling_accounts.discarded IS 'those that dynamic sampling discarded, a count';
COMMENT ON COLUMN sampling_accounts.tokens IS 'tokens of its completions, a count';
COMMENT ON COLUMN sampling_accounts.discarded_share IS 'discarded / rollouts, 0 to 1';
COMMENT ON COLUMN sampling_accounts.rollouts_so_far IS 'rollouts that the run had sampled by the end of the step, a count';
COMMENT ON COLUMN sampling_accounts.tokens_so_far IS 'tokens that it had sampled by then, a count';

COMMENT ON VIEW flips IS
    'prompts that went from all wrong at one visit to some right at the next, once per kind (training, evaluation), with counts and one wrong and one right completion';
COMMENT ON COLUMN flips.kind IS 'training or evaluation';
COMMENT ON COLUMN flips.question IS 'the problem''s text';
COMMENT ON COLUMN flips.answer IS 'the reference answer, or the tests';
COMMENT ON COLUMN flips.from_stage IS 'stage of the visit that was all wrong';
COMMENT ON COLUMN flips.from_epoch IS 'epoch of that visit (evaluation: epochs of the stage that were finished)';
COMMENT ON COLUMN flips.from_graded IS 'graded rollouts of that visit, a count';
COMMENT ON COLUMN flips.to_stage IS 'stage of the next visit';
COMMENT ON COLUMN flips.to_epoch IS 'epoch of the next visit, counted in the same way';
COMMENT ON COLUMN flips.to_graded IS 'graded rollouts of the next visit, a count';
COMMENT ON COLUMN flips.to_correct IS 'correct ones among them, a count';
COMMENT ON COLUMN flips.wrong_completion IS 'first wrong completion of the earlier visit, as text';
COMMENT ON COLUMN flips.right_completion IS 'first correct completion of the next visit, as text';

COMMENT ON VIEW staleness IS
    'one row per step and policy version that sampled rollouts of it (one, in a sound run): how many rollouts, the version that their update started from, and the difference in updates (null: not updated yet)';
COMMENT ON COLUMN staleness.sampled_by IS 'policy version that sampled the rollouts, in updates since the base';
COMMENT ON COLUMN staleness.rollouts IS 'rollouts of the step that this version sampled, a count';
COMMENT ON COLUMN staleness.updated_by IS
    'policy version that its update started from, in updates since the base; null: not updated yet';
COMMENT ON COLUMN staleness.staleness IS 'updated_by - sampled_by, in updates; null: not updated yet';

COMMENT ON MACRO TABLE rollouts_of IS
    'every committed rollout of one prompt, oldest first, with texts and tokens: FROM rollouts_of(''0123456789abcdef'')';
COMMENT ON MACRO TABLE stage_decision IS
    'whether a stage goes on after an epoch, why, and the figures: FROM stage_decision(stage, epoch, window, min_gain, max_steps, min_prompts)';
COMMENT ON MACRO TABLE search IS
    'the rollouts of one stage and epoch whose completion or prompt holds a text (upper and lower case alike), with an excerpt of up to 40 characters either side: FROM search(''wait'', 1, 0)';
COMMENT ON MACRO TABLE best_and_worst IS
    'the rollouts of one prompt with the highest and the lowest total reward, with texts, over its whole history, per run: FROM best_and_worst(''0123456789abcdef'')';
COMMENT ON MACRO pass_at_k IS
    'unbiased probability (0 to 1) that at least one of k rollouts is correct, when c of n were; null when k > n';
COMMENT ON MACRO mentions IS
    'how often a text holds any word of a list as a whole word (a count; upper and lower case alike): mentions(completion, [''wait'', ''check''])';
