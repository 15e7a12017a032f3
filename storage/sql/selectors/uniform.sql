-- The rule: every prompt in every epoch, whatever it showed.
-- Source: plain GRPO; the baseline of arXiv 2603.10887.
SELECT prompt_id, true AS keep, bucket, shown(bucket, graded, correct) || ': stays' AS reason, graded, correct, pass_rate
FROM standing
