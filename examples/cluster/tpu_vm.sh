#!/usr/bin/env bash
# Runs train_distributed.py on a slice of TPU VMs that exists. Not tried on hardware.
#
#     TPU=my-slice ZONE=us-east5-a OUTPUT=/mnt/shared/run examples/cluster/tpu_vm.sh \
#         --preset gpt2_base_en --batch-size 1024
#
# Each host needs this checkout in REPOSITORY, cptk installed there (with jax[tpu], or TensorFlow
# for TPUs), and OUTPUT mounted from storage that all hosts share.
set -euo pipefail

: "${TPU:?name of the slice, as in: TPU=my-slice}"
: "${ZONE:?zone of the slice, as in: ZONE=us-east5-a}"
: "${OUTPUT:?a folder that all hosts share, as in: OUTPUT=/mnt/shared/run}"
REPOSITORY="${REPOSITORY:-cptk}"
BACKEND="${KERAS_BACKEND:-jax}"

command="cd $REPOSITORY && "
case "$BACKEND" in
    # JAX: one process on each host; they find each other by the slice's metadata.
    jax) workers=all ;;
    # TensorFlow: one process for the slice, on its first host. (On a slice of one host, run
    # train_distributed.py --strategy tpu there instead.)
    tensorflow)
        workers=0
        command+="TPU_NAME=$(printf %q "$TPU") TPU_LOAD_LIBRARY=0 "
        ;;
    *)
        echo "KERAS_BACKEND should be jax or tensorflow. Received: $BACKEND" >&2
        exit 2
        ;;
esac
command+="python3 -u examples/train_distributed.py --backend $BACKEND --strategy tpu"
for argument in --output "$OUTPUT" "$@"; do
    command+=" $(printf %q "$argument")"
done

exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$workers" --command="$command"
