# The keys and values of modelscope/ms-swift: examples/train/multimodal/ocr.sh
CUDA_VISIBLE_DEVICES=0 \
MAX_PIXELS=1003520 \
swift sft \
    --dataloader_num_workers 4 \
    --dataset 'AI-ModelScope/LaTeX_OCR:human_handwrite#20000' \
    --eval_steps 50 \
    --freeze_aligner true \
    --freeze_vit true \
    --gradient_accumulation_steps 16 \
    --learning_rate 0.0001 \
    --load_from_cache_file true \
    --logging_steps 5 \
    --lora_alpha 32 \
    --lora_rank 8 \
    --max_length 4096 \
    --model Qwen/Qwen2.5-VL-7B-Instruct \
    --num_train_epochs 1 \
    --output_dir output \
    --per_device_eval_batch_size 1 \
    --per_device_train_batch_size 1 \
    --save_steps 50 \
    --save_total_limit 2 \
    --split_dataset_ratio 0.01 \
    --target_modules all-linear \
    --torch_dtype bfloat16 \
    --tuner_type lora \
    --warmup_ratio 0.05
