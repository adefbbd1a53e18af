# The keys and values of modelscope/ms-swift: examples/train/multimodal/lora_llm_full_vit/sft.sh
NPROC_PER_NODE=4 \
CUDA_VISIBLE_DEVICES=0,1,2,3 \
MAX_PIXELS=1003520 \
swift sft \
    --aligner_lr 1e-05 \
    --dataloader_num_workers 4 \
    --dataset 'AI-ModelScope/coco#20000' \
    --dataset_num_proc 4 \
    --deepspeed zero2 \
    --eval_steps 100 \
    --gradient_accumulation_steps 4 \
    --learning_rate 0.0001 \
    --load_from_cache_file true \
    --logging_steps 5 \
    --lora_alpha 32 \
    --lora_rank 16 \
    --max_length 8192 \
    --model Qwen/Qwen2.5-VL-7B-Instruct \
    --num_train_epochs 1 \
    --output_dir output \
    --per_device_eval_batch_size 1 \
    --per_device_train_batch_size 1 \
    --save_only_model true \
    --save_steps 100 \
    --save_total_limit 2 \
    --split_dataset_ratio 0.01 \
    --torch_dtype bfloat16 \
    --tuner_type lora_llm \
    --vit_lr 1e-05 \
    --warmup_ratio 0.05
