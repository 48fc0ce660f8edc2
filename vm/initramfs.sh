#!/bin/busybox sh
# The first process of the SMP guest (vm/qemu.ts boots it): mounts the host's root directory and goes
# on with vm/init.sh there. The kernel's virtio and 9p are modules, which are here in their order.
for module in /modules/*; do busybox insmod "$module"; done
# Nobody changes the host's files under a guest, so what has been read of them may be kept.
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /root
busybox mount -t devtmpfs dev /root/dev
exec busybox switch_root /root "$DMLOOP_VM_DIR/init"
