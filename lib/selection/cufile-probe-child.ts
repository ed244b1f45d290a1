/**
 * A process of its own for cuFile's driver, which can hang when it is opened: prints what the probe says, as JSON. HICACHE_NIXL_PROC_MODULES names another file in place of /proc/modules: a
 * container may hide that one, and then the driver hangs although the modules are there.
 */
import { loadAddon } from '../transfer/load-addon.js'

process.stdout.write(JSON.stringify(loadAddon().cufile.probe(process.env['HICACHE_NIXL_PROC_MODULES'])))
