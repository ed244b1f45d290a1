#!/usr/bin/env bash
# One Ceph radosgw with what it needs (a monitor, one OSD whose objects are in memory), on loopback: bash ceph-start.sh DIRECTORY MON_PORT RGW_PORT
# Prints "ready" and stays until its standard input ends. Then, however it ends, all of it is killed and the directory is removed. See ceph.ts.
set -euo pipefail
dir=$1 mon_port=$2 rgw_port=$3
mkdir -p "$dir"/{mon,osd,rgw,run,log}
export CEPH_CONF=$dir/ceph.conf

clean() {
  trap - EXIT
  # Not asked to end: an OSD in memory would write it all down first.
  # Bash would report each of them on stderr.
  { for daemon in $(jobs -p); do kill -KILL "$daemon" || true; done; wait || true; } 2>"$dir/log/end.out"
  rm -rf "$dir"
}
trap clean EXIT
trap 'exit 143' TERM INT HUP

# daemon NAME COMMAND...: in the background. It does not outlive this script, also when that is killed.
daemon() {
  local name=$1
  shift
  setpriv --pdeathsig KILL "$@" -f </dev/null >"$dir/log/$name.out" 2>&1 &
}

# until_it DAEMON COMMAND...: waits for what no event announces, as long as the daemons live; 30 s.
until_it() {
  local what=$1 tries
  shift
  for ((tries = 0; tries < 600; tries++)); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.05
  done
  echo "$what did not come up; its last words:" >&2
  tail -n 5 "$dir/log/$what.out" "$dir"/log/*"$what"*.log >&2 || true
  exit 1
}
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

fsid=$(</proc/sys/kernel/random/uuid)
osd_uuid=$(</proc/sys/kernel/random/uuid)
# msgr2 only: the old protocol has a port of its own, and nothing speaks it here. Pools are made below, with one placement group each; the monitor's answers,
# which wait for paxos, take milliseconds instead of a second. What was deleted is forgotten soon: it takes memory. rgw_dns_name makes a bucket of the host's
# first label. Without tcp_nodelay every small answer to a GET takes 40 ms: it is sent in two writes. `local` comes before `sts`: the other way round a wrong
# secret is told as AccessDenied.
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon_initial_members = a
mon_host = [v2:127.0.0.1:$mon_port/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
public_network = 127.0.0.0/8
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = $dir/keyring
ms_bind_msgr1 = false
mon_data_avail_warn = 1
mon_data_avail_crit = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
run_dir = $dir/run
admin_socket = $dir/run/\$name.\$pid.asok
log_file = $dir/log/\$name.log
log_to_stderr = false
[mon]
mon_data = $dir/mon
[osd]
osd_data = $dir/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
memstore_page_set = false
osd_memory_target = 1073741824
osd_op_num_shards = 1
osd_max_object_name_len = 2048
[client.rgw.a]
rgw_frontends = beast endpoint=127.0.0.1:$rgw_port tcp_nodelay=1
rgw_dns_name = s3.localhost
rgw_data = $dir/rgw
rgw_thread_pool_size = 32
rgw_enable_usage_log = false
rgw_run_sync_thread = false
rgw_gc_processor_period = 5
rgw_gc_obj_min_wait = 1
rgw_gc_processor_max_time = 5
rgw_sts_key = abcdefghijklmnop
rgw_sts_min_session_duration = 1
rgw_s3_auth_use_sts = true
rgw_s3_auth_order = local, sts
CONF

ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
ceph-authtool "$dir/keyring" --gen-key -n client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx' >/dev/null
ceph-authtool "$dir/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' >/dev/null
monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon_port/0]" "$dir/monmap" >/dev/null
ceph-mon -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring" >"$dir/log/mon-mkfs.out" 2>&1
daemon mon ceph-mon -i a
until_it mon listening "$mon_port"

# One process asks the monitor for everything: `ceph` would start a Python of its own for each word. Debian's Python, which has Ceph's module; another
# may come first in PATH.
timeout 60 /usr/bin/python3 - "$CEPH_CONF" "$dir/keyring" "$osd_uuid" <<'PYTHON'
import json, rados, sys
conf, keyring, osd_uuid = sys.argv[1:]
cluster = rados.Rados(conffile=conf)
cluster.connect()
def ask(data=b'', **words):
    code, _, why = cluster.mon_command(json.dumps(words), data)
    if code != 0: sys.exit('%s: %s %s' % (words['prefix'], code, why))
ask(open(keyring, 'rb').read(), prefix='auth import')
ask(prefix='osd new', uuid=osd_uuid, id=0)
for pool in ('.rgw.root', *('default.rgw.' + part for part in ('log', 'control', 'meta', 'buckets.index', 'buckets.data', 'buckets.non-ec'))):
    ask(prefix='osd pool create', pool=pool, pg_num=1, pgp_num=1, pool_type='replicated')
    ask(prefix='osd pool application enable', pool=pool, app='rgw')
cluster.shutdown()
PYTHON

ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid" >"$dir/log/osd-mkfs.out" 2>&1
daemon osd ceph-osd -i 0
# A radosgw that has to wait for the OSD by itself looks again only after 5 s.
osd_up() { ceph osd stat | grep -q '1 up'; }
until_it osd osd_up
daemon rgw radosgw -n client.rgw.a
until_it rgw listening "$rgw_port"

echo ready
# Whoever started this holds the other end.
read -r || true
