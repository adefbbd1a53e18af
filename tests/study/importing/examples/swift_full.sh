# The keys and values of modelscope/ms-swift: examples/train/full/train.sh
CUDA_VISIBLE_DEVICES=0 \
swift sft \
    --dataloader_num_workers 4 \
    --dataset 'AI-ModelScope/alpaca-gpt4-data-zh#500' 'AI-ModelScope/alpaca-gpt4-data-en#500' 'swift/self-cognition#500' \
    --eval_steps 100 \
    --gradient_accumulation_steps 16 \
    --learning_rate 1e-05 \
    --logging_steps 5 \
    --max_length 2048 \
    --model Qwen/Qwen2.5-7B-Instruct \
    --model_author swift \
    --model_name swift-robot \
    --num_train_epochs 1 \
    --output_dir output \
    --per_device_eval_batch_size 1 \
    --per_device_train_batch_size 1 \
    --save_steps 100 \
    --save_total_limit 2 \
    --system 'You are a helpful assistant.' \
    --torch_dtype bfloat16 \
    --tuner_type full \
    --warmup_ratio 0.05
