import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { request, type IncomingMessage } from 'node:http'
import { Agent } from 'node:https'
import type { Socket } from 'node:net'
import { connect } from 'node:tls'
import { GetObjectCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3'
import { expect } from 'chai'
import { sdkClient } from '../support/aws-sdk.js'
import { describeRadosgw } from '../support/ceph.js'
import { fakeS3 } from '../support/fake-s3.js'
import { forwardProxy } from '../support/forward-proxy.js'
import { tlsFront } from '../support/tls-front.js'
import { workbench } from '../support/workbench.js'

// What the specs of TLS and of proxies take for granted of their helpers.
describe('TLS and proxies before an object store', () => {
  const bench = workbench()

  describeRadosgw('TLS', gateway => {
    function client(endpoint: string, caFile: string, forcePathStyle: boolean): S3Client {
      // Node asks the system for names below localhost, and the system does not know them.
      const here = [{ address: '127.0.0.1', family: 4 }]
      const lookup = (_name: string, _options: unknown, answer: (error: null, addresses: object[]) => void): void => { answer(null, here) }
      const httpsAgent = new Agent({ ca: readFileSync(caFile), lookup: lookup as never, autoSelectFamily: true })
      const { region, accessKey, secretKey } = gateway()
      const made = sdkClient({ endpoint, region, accessKey, secretKey }, { maxAttempts: 1, forcePathStyle, requestHandler: { httpsAgent } })
      bench.atEnd(() => { made.destroy() })
      return made
    }

    it('passes on what is signed, by address and by name, and only to those who trust its authority', async () => {
      const front = await tlsFront(bench, gateway().endpoint)
      const Bucket = await gateway().bucket()
      const Body = randomBytes(300_000)
      await client(front.endpoint, front.caFile, true).send(new PutObjectCommand({ Bucket, Key: 'a b', Body }))
      const got = await client(front.namedEndpoint, front.caFile, false).send(new GetObjectCommand({ Bucket, Key: 'a b' }))
      expect(Buffer.from(await got.Body!.transformToByteArray()).equals(Body)).to.be.true
      expect(front.hosts).to.deep.equal([`127.0.0.1:${front.port}`, `${Bucket}.s3.localhost:${front.port}`])
      const { sessions } = front
      const distrustful = client(front.endpoint, front.otherCaFile, true)
      expect(await distrustful.send(new GetObjectCommand({ Bucket, Key: 'a b' })).then(() => null, (error: unknown) => error)).to.match(/certificate/)
      expect(front.hosts).to.have.lengthOf(2)
      expect(sessions).to.equal(2)
    })
  })

  it('a proxy sees plain requests, and tunnels the others', async () => {
    const fake = await fakeS3(bench)
    const front = await tlsFront(bench, fake.endpoint)
    const proxy = await forwardProxy(bench)
    fake.bucket.put('page', Buffer.from('bytes'))
    const ask = { host: '127.0.0.1', port: proxy.port, agent: false } as const

    // Not signed: that it is the server that says so is enough here.
    const headers = { 'proxy-authorization': 'Basic abc', 'host': `s3.localhost:${fake.port}` }
    const plain = request({ ...ask, path: `http://s3.localhost:${fake.port}/pages/a%20b?x`, headers }).end()
    const [answer] = await once(plain, 'response') as [IncomingMessage]
    answer.resume()
    expect(answer.statusCode).to.equal(403)
    expect(fake.requests).to.have.lengthOf(1)
    expect(fake.requests[0]).to.deep.include({ url: '/pages/a%20b?x', key: 'a b' })
    expect(fake.requests[0]!.headers).to.include({ host: `s3.localhost:${fake.port}` }).and.not.have.property('proxy-authorization')

    const tunnel = request({ ...ask, method: 'CONNECT', path: `s3.localhost:${front.port}` }).end()
    const [, socket] = await once(tunnel, 'connect') as [IncomingMessage, Socket]
    const secure = connect({ socket, servername: 's3.localhost', ca: readFileSync(front.caFile) })
    await once(secure, 'secureConnect')
    secure.write(`GET /pages/page HTTP/1.1\r\nHost: s3.localhost:${front.port}\r\nConnection: close\r\n\r\n`)
    const [head] = await once(secure, 'data') as [Buffer]
    expect(head.toString()).to.match(/^HTTP\/1\.1 403 /)
    secure.destroy()

    expect(proxy.requests).to.deep.equal([`GET http://s3.localhost:${fake.port}/pages/a%20b?x`])
    expect(proxy.tunnels).to.deep.equal([`s3.localhost:${front.port}`])
    expect(proxy.authorizations).to.deep.equal(['Basic abc', ''])
    expect(fake.requests.map(({ key }) => key)).to.deep.equal(['a b', 'page'])
  })
})
