import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import vm from 'node:vm'
import { expect } from 'chai'
import { ConfigFolder, load, problems, refused } from './config-fixture.js'

describe('where a configuration comes from', () => {
  let folder: ConfigFolder
  before(() => { folder = new ConfigFolder() })
  after(() => folder.remove())

  const README_TOML = `
# the connector's form
[plugin.posix]
active = true
use_uring = "true"

[plugin.3fs]
active = "False"
mount_point = "/mnt/3fs"
iopool_size = 128
`
  const same = (config: string | object): void => {
    const loaded = load(config)
    expect(loaded.posixEngine).to.equal('io_uring')
    expect(loaded.active('posix')).to.equal(true)
    expect(loaded.active('3fs')).to.equal(false)
    expect(loaded.active('obj')).to.equal(undefined)
    expect(loaded.initParams('3fs')).to.deep.equal({ mount_point: '/mnt/3fs', mem_config: 'dram', iopool_size: '128' })
  }

  it('nothing: the defaults', () => {
    for (const nothing of [undefined, null]) {
      const config = load(nothing)
      expect(config.source).to.equal('defaults')
      expect(config.sections.size).to.equal(0)
      expect(config.posixEngine).to.equal('auto')
      expect(config.selector).to.deep.equal({ plugin: 'auto', from: 'default' })
    }
  })
  it('TOML, YAML and JSON files, an inline JSON text and an object say the same', () => {
    same(folder.write('a.toml', README_TOML))
    same(folder.write('a.TOML', README_TOML))
    same(folder.write('dotted.toml', 'plugin.posix.active = true\nplugin.posix.use_uring = "true"\nplugin.3fs = { active = "false", mount_point = "/mnt/3fs", iopool_size = 128 }\n'))
    const yaml = 'plugin:\n  posix:\n    active: true\n    use_uring: "true"\n  3fs: {active: "False", mount_point: /mnt/3fs, iopool_size: 128}\n'
    same(folder.write('a.yaml', yaml))
    same(folder.write('a.yml', yaml))
    const object = { plugin: { posix: { active: true, use_uring: 'true' }, '3fs': { active: 'False', mount_point: '/mnt/3fs', iopool_size: 128 } } }
    same(folder.write('a.json', JSON.stringify(object, null, 2)))
    same(JSON.stringify(object))
    same(object)
    same({ 'plugin.posix.active': 'True', 'plugin.posix.use_uring': true, 'plugin.3fs': object.plugin['3fs'] })
  })
  it('the single-quoted form of the README, as Python prints dictionaries', () => {
    expect(load('{\'use_uring\': \'true\'}').posixEngine).to.equal('io_uring')
    same(' {\'plugin\': {\'posix\': {\'active\': True, \'use_uring\': "true",}, \'3fs\': {\'active\': False, \'mount_point\': \'/mnt/3fs\', \'iopool_size\': 128}}}\n')
    expect(load('{\'model_name\': \'it\\\'s "x"\', \'workers\': None}').options).to.include({ modelName: 'it\'s "x"', workers: null })
  })
  it('says where it came from', () => {
    expect(load(folder.write('b.toml', '')).source).to.equal(`file ${join(folder.path, 'b.toml')}`)
    expect(load('{}').source).to.equal('an inline text')
    expect(load({}).source).to.equal('an object')
  })
  it('an object of another realm, without a prototype, with properties that are undefined', () => {
    expect(load(vm.runInNewContext('({ plugin: { posix: { use_aio: "true" } }, storage_dir: ["/tmp/x1", "/tmp/x2"] })') as object).posixEngine).to.equal('aio')
    expect(load(Object.assign(Object.create(null) as object, { workers: 3 })).options.workers).to.equal(3)
    expect(load({ workers: undefined, plugin: undefined }).options.workers).to.equal(null)
  })
  it('a byte order mark and Windows line ends do no harm', () => {
    for (const [name, text] of [['bom.json', '\ufeff{\r\n"workers": 2}'], ['bom.toml', '\ufeffworkers = 2\r\n'], ['bom.yaml', '\ufeffworkers: 2\r\n']] as const) {
      expect(load(folder.write(name, text)).options.workers, name).to.equal(2)
    }
  })

  it('an error says file, line and column, in every syntax', () => {
    const cases: [string, string, number, number][] = [
      ['p.toml', 'timeout_ms = 5\n[plugin.3fs]\n  iopool_size = 63\n', 3, 17],
      ['q.toml', 'plugin.3fs = { mem_config = "dram", iopool_size = 63 }\n', 1, 51],
      ['p.yaml', 'timeout_ms: 5\nplugin:\n  3fs:\n    iopool_size: 63\n', 4, 18],
      ['q.yml', 'plugin: {3fs: {iopool_size: "63"}}\n', 1, 29],
      ['p.json', '{\n  "timeout_ms": 5,\n  "plugin": { "3fs": { "iopool_size": 63 } }\n}', 3, 39],
    ]
    for (const [name, text, line, column] of cases) {
      const file = folder.write(name, text)
      const error = refused(file)
      expect(error.code).to.equal('ERR_CONFIG')
      expect(error.where, name).to.deep.equal({ file: file.slice(1), line, column })
      expect(error.message).to.equal(`${file.slice(1)}:${line}:${column}: plugin.3fs.iopool_size: expected a whole number from 64 to 1048576, found 63`)
    }
    expect(refused('{\'plugin\':\n {\'3fs\': {\'iopool_size\': 63}}}').message).to.match(/^<inline>:2:26: plugin\.3fs\.iopool_size: /)
    const object = refused({ plugin: { '3fs': { iopool_size: 63 } } })
    expect(object.message).to.match(/^<object>: plugin\.3fs\.iopool_size: expected/)
    expect(object.where).to.equal(undefined)
  })
  it('an unknown key is found where the key stands', () => {
    expect(refused(folder.write('k.toml', '[plugin.posix]\n  use_urring = "true"\n')).where).to.include({ line: 2, column: 3 })
    expect(refused(folder.write('k.yaml', 'plugin:\n  posix: {use_urring: "true"}\n')).where).to.include({ line: 2, column: 11 })
    expect(refused(folder.write('k.json', '{"plugin": {"posix": {"use_urring": "true"}}}')).where).to.include({ line: 1, column: 23 })
    expect(refused(folder.write('s.toml', 'workers = 1\n\n[plugin.possix]\nactive = true\n')).where).to.include({ line: 3, column: 9 })
  })
  it('a syntax error says where, and shows nothing of the text', () => {
    const cases: [string, string, number][] = [
      ['x.toml', 'workers = 1\naccess_key = S3CRET\n', 2], ['y.toml', '[plugin.obj]\nsecret_key = "S3CRET\n', 2], ['z.toml', 'secret_key = "a" "S3CRET"\n', 1],
      ['x.yaml', 'a: 1\nb: [S3CRET\n', 3], ['y.yaml', 'plugin:\n  obj: "S3CRET\n', 3], ['z.yaml', 'a: *S3CRET\n', 1], ['w.yaml', 'a: "\\S3CRET"\n', 1], ['v.yaml', 'S3CRET: 1\n  b: S3CRET\n', 1],
      ['x.json', '{"access_key":\n S3CRET}', 2], ['y.json', '{"access_key": "S3CRET}', 1], ['z.json', '{"a": "\\qS3CRET"}', 1],
    ]
    for (const [name, text, line] of cases) {
      const error = refused(folder.write(name, text))
      expect(error.where?.line, `${name}: ${error.message}`).to.equal(line)
      expect(error.message + String(error.stack) + String(error.cause), name).to.not.include('S3CRET')
    }
  })
  it('a .json file is JSON and nothing else', () => {
    for (const text of ['{\'a\': 1}', '{"workers": 2,}', '{workers: 2}', '// x\n{}', '{"workers": 02}', '{"workers": +2}', '{"workers": .5}', '{"workers": 0x2}', '{"workers": NaN}',
      '{"a": True}', '{"model_name": "a\nb"}', '{} {}', '', '{"workers": 2', '{"model_name": "\\u12g4"}', '{"model_name": "\\x41"}', '{"workers" 2}', '{"workers": 1 "threads": 2}']) {
      const error = refused(folder.write('strict.json', text))
      expect(error.where, text).to.not.equal(undefined)
      // The syntax is at fault, not a key.
      expect(error.message, text).to.match(/^[^:]+:\d+:\d+: [^:]*(?:expected|closing quote|control character|escape|digits)/)
    }
    expect(load(folder.write('strict.json', '{"model_name": "a\\u00e9\\n\\/", "l3_cleaner_capacity_gb": 1.5e1}')).options)
      .to.include({ modelName: 'aé\n/', l3CleanerCapacityGb: 15 })
  })
  it('YAML\'s surprises are refused, not obeyed', () => {
    expect(problems(folder.write('no.yaml', 'plugin:\n  posix:\n    use_uring: no\n'))[0]).to.include('plugin.posix.use_uring: expected true or false').and.include('found "no"')
    expect(problems(folder.write('v11.yaml', '%YAML 1.1\n---\nuse_direct_io: no\n'))[0]).to.include('YAML 1.2')
    expect(problems(folder.write('anchor.yaml', 'plugin:\n  posix: &a {}\n'))[0]).to.match(/:2:\d+: anchors and aliases/)
    expect(problems(folder.write('merge.yaml', 'a: &x {b: 1}\n<<: *x\n'))[0]).to.include('anchors and aliases')
    expect(problems(folder.write('tag.yaml', 'model_name: !!js/function "x"\n'))[0]).to.match(/:1:\d+: tags are not taken/)
    expect(problems(folder.write('two.yaml', 'workers: 1\n---\nworkers: 2\n'))[0]).to.include('one document')
    expect(problems(folder.write('tab.yaml', 'plugin:\n\tposix: {}\n'))[0]).to.match(/:2:1: /)
    expect(problems(folder.write('list.yaml', '- a\n'))[0]).to.include('a table of keys')
    expect(problems(folder.write('number.yaml', 'model_name: 7\n'))[0]).to.include('write it in quotes')
    expect(problems(folder.write('date.yaml', 'model_name: 2024-01-01\n'))).to.deep.equal([])
    const bomb = ['a: &a [x]', ...Array.from({ length: 30 }, (_, n) => `b${n}: &b${n} [${`*${n === 0 ? 'a' : `b${n - 1}`}, `.repeat(9)}]`)].join('\n')
    expect(problems(folder.write('bomb.yaml', bomb))[0]).to.include('anchors and aliases')
    expect(load(folder.write('empty.yaml', '# nothing\n')).sections.size).to.equal(0)
  })
  it('a key that is given twice is an error', () => {
    for (const [name, text, line] of [
      ['d.toml', 'workers = 1\nworkers = 1\n', 2], ['e.toml', '[plugin.posix]\n[plugin.posix]\n', 2], ['d.yaml', 'workers: 1\nworkers: 1\n', 2],
      ['d.json', '{"plugin": {"posix": {},\n"posix": {}}}', 2], ['e.json', '{"plugin": {"posix": {"use_aio": "true"}},\n"plugin.posix.use_aio": "true"}', 2],
      ['f.json', '{"plugin": "posix",\n"selector": "obj"}', 2],
    ] as const) expect(refused(folder.write(name, text)).where?.line, name).to.equal(line)
  })
  it('keys that are properties of every object are keys like any other', () => {
    for (const key of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
      for (const [name, text] of [['r.json', `{"${key}": {"x": 1}}`], ['r.yaml', `${key}: {x: 1}`], ['r.toml', `[${key}]\nx = 1`], ['s.toml', `[plugin.posix]\n${key} = 1`],
        ['s.json', `{"agent": "embedded", "plugin": {"${key}": {"active": true}}}`]] as const) {
        expect(refused(folder.write(name, text)).message, `${name} ${key}`).to.include(key)
      }
    }
    expect(refused(JSON.parse('{"__proto__": {"workers": 3}}') as object).message).to.include('__proto__')
    expect(({} as { workers?: number }).workers).to.equal(undefined)
    const config = load('{"agent": "nixl", "plugin": {"other": {"__proto__": "a", "constructor": "b"}}}')
    expect(Object.entries(config.initParams('other'))).to.deep.equal([['__proto__', 'a'], ['constructor', 'b']])
  })
  it('a text of any depth ends in an error', () => {
    for (const [name, text] of [['deep.json', '{"a":' + '['.repeat(1e5)], ['deep.yaml', 'a: ' + '['.repeat(1e4)], ['deep.toml', 'a = ' + '['.repeat(1e4) + ']'.repeat(1e4)],
      ['keys.toml', `${'a.'.repeat(200)}b = 1`]] as const) expect(refused(folder.write(name, text)).code, name).to.equal('ERR_CONFIG')
    const cycle: { plugin?: unknown } = {}
    cycle.plugin = cycle
    expect(refused(cycle).message).to.include('contains itself')
  })
  it('what is no configuration at all', () => {
    expect(refused('').message).to.include('empty string')
    expect(refused('conf.toml').message).to.include('an @ before its path')
    expect(refused('use_uring=true').message).to.include('"@path"')
    expect(refused('@').message).to.include('a path after @')
    expect(refused('@/does/not/exist.toml').message).to.equal('/does/not/exist.toml: the configuration file cannot be read: ENOENT')
    expect(refused(folder.write('conf.ini', 'a=1')).message).to.include('.toml, .json, .yaml or .yml')
    expect(refused(folder.write('bytes.toml', Buffer.from([0x61, 0xff, 0xfe]))).message).to.include('UTF-8')
    expect(refused(folder.write('large.toml', '#'.repeat(1024 * 1024 + 1))).message).to.include('at most 1048576 bytes')
    mkdirSync(join(folder.path, 'dir.toml'))
    expect(refused(`@${join(folder.path, 'dir.toml')}`).message).to.include('regular file')
    expect(refused([]).message).to.include('table of keys')
    expect(refused(5 as unknown as object).message).to.include('table of keys')
    expect(refused({ workers: () => 1 }).message).to.include('found a Function')
    expect(refused({ plugin: new Map() }).message).to.include('found a Map')
    expect(refused('[]').message).to.include('does not begin with {')
  })
  it('shows everything that is wrong at once, in the order of the text', () => {
    const messages = problems(folder.write('many.toml', 'worker = 3\n[plugin.posix]\nuse_uring = "yes"\nuse_io = 1\n[plugin.3fs]\niopool_size = 1\n'))
    expect(messages.map((message) => /:(\d+):\d+: /.exec(message)?.[1])).to.deep.equal(['1', '3', '4', '6'])
  })
})
