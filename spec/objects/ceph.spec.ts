import { GetObjectCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3'
import { expect } from 'chai'
import { refusal } from '../support/aws-sdk.js'
import { describeRadosgw } from '../support/ceph.js'
import { until } from '../support/planned-faults.js'

// What the other specs take for granted of their server, with the AWS SDK as the client.
describeRadosgw('the server of the object specs', gateway => {
  it('keeps what is put, in buckets of its own for each spec', async () => {
    const [one, other] = await Promise.all([gateway().bucket(), gateway().bucket('named')])
    expect(other).to.match(/^named-/)
    const client = gateway().client()
    await client.send(new PutObjectCommand({ Bucket: one, Key: 'a key', Body: 'bytes', Metadata: { 'hicache-nixl': 'words' } }))
    const got = await client.send(new GetObjectCommand({ Bucket: one, Key: 'a key' }))
    expect(await got.Body!.transformToString()).to.equal('bytes')
    expect(got.Metadata).to.deep.equal({ 'hicache-nixl': 'words' })
    expect((await client.send(new ListObjectsV2Command({ Bucket: other }))).KeyCount).to.equal(0)
    await gateway().removeBucket(one)
    expect(await refusal(client.send(new ListObjectsV2Command({ Bucket: one })))).to.deep.equal({ status: 404, code: 'NoSuchBucket' })
  })

  it('refuses a wrong secret, and another user', async () => {
    const bucket = await gateway().bucket()
    const list = new ListObjectsV2Command({ Bucket: bucket })
    const { accessKey } = gateway()
    expect(await refusal(gateway().client({ accessKey, secretKey: 'wrong' }).send(list))).to.deep.equal({ status: 403, code: 'SignatureDoesNotMatch' })
    expect(await refusal(gateway().client({ accessKey: 'NOBODY', secretKey: 'wrong' }).send(list))).to.deep.equal({ status: 403, code: 'InvalidAccessKeyId' })
    expect(await refusal(gateway().client(await gateway().user()).send(list))).to.deep.equal({ status: 403, code: 'AccessDenied' })
  })

  it('gives temporary keys that need their token and expire', async () => {
    const bucket = await gateway().bucket()
    const list = new ListObjectsV2Command({ Bucket: bucket })
    const keys = await gateway().stsAssumeRole()
    expect((await gateway().client(keys).send(list)).KeyCount).to.equal(0)
    const refused = { status: 403, code: 'InvalidAccessKeyId' }
    expect(await refusal(gateway().client({ accessKey: keys.accessKey, secretKey: keys.secretKey }).send(list))).to.deep.equal(refused)
    const short = gateway().client(await gateway().stsAssumeRole(1))
    await until(() => short.send(list).then(() => false, () => true), 'the end of keys that live for 1 s')
    expect(await refusal(short.send(list))).to.deep.equal(refused)
  })
})
