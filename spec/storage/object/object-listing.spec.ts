import { expect } from 'chai'
import { XMLParser } from 'fast-xml-parser'
import { deleteBody, fitsXml, parseDeleteErrors, parseListing, parseUploads } from '../../../lib/storage/object/object-listing.js'

const bytes = (text: string): Uint8Array => Buffer.from(text)
const list = (inner: string): Uint8Array => bytes(`<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${inner}</ListBucketResult>`)
const object = (key: string): string => `<Contents><Key>${key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;x&quot;</ETag><Size>65536</Size></Contents>`

describe('listings of an object store', () => {
  it('have keys, sizes and times, and where they go on', () => {
    const page = parseListing(list(`<Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>a+b&amp;%2F==</NextContinuationToken>${object('p/a')}${object('p/b')}`))
    expect(page.next).to.equal('a+b&%2F==')
    expect(page.objects).to.deep.equal(['p/a', 'p/b'].map(key => ({ key, size: 65536, modifiedAt: new Date('2026-01-02T03:04:05.678Z') })))
    expect(parseListing(list('<IsTruncated>false</IsTruncated>'))).to.deep.equal({ objects: [], next: null })
    expect(parseListing(bytes('<ListBucketResult/>'))).to.deep.equal({ objects: [], next: null })
  })
  it('decode keys where the server says that it encoded them, and only there', () => {
    const keys = (inner: string): string[] => parseListing(list(inner)).objects.map(({ key }) => key)
    expect(keys(`<EncodingType>url</EncodingType>${object('a+b%20c%2Bd%2Fe%C3%A9%0A')}`)).to.deep.equal(['a b c+d/eé\n'])
    expect(keys(object('a+b%20&amp;&lt;c'))).to.deep.equal(['a+b%20&<c'])
    expect(keys(`<EncodingType>url</EncodingType>${object('0123')}${object('%FF')}${object('1e5')}`)).to.deep.equal(['0123', '1e5'])
  })
  it('of uploads likewise', () => {
    const answer = bytes(`<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextKeyMarker>a%20b</NextKeyMarker><NextUploadIdMarker>2~x</NextUploadIdMarker>
      <Upload><Key>a%20b</Key><UploadId>2~x</UploadId><Initiated>2026-01-02T03:04:05Z</Initiated></Upload></ListMultipartUploadsResult>`)
    expect(parseUploads(answer)).to.deep.equal({ uploads: [{ key: 'a b', id: '2~x', initiatedAt: new Date('2026-01-02T03:04:05Z') }], next: { key: 'a b', id: '2~x' } })
    expect(parseUploads(bytes('<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>'))).to.deep.equal({ uploads: [], next: null })
  })
  it('that are none of S3\'s are an error that says so', () => {
    for (const text of ['<html><body>Welcome</body></html>', 'no XML', '', '{}']) expect(() => parseListing(bytes(text)), text).to.throw('is the endpoint an S3 endpoint?')
  })
  it('deletes of many carry every key that XML can', () => {
    const keys = ['plain', 'a&b<c>d"e\'', ' leading and trailing ', 'tab\tnewline\nreturn\r', 'é鍵😀']
    expect(keys.every(fitsXml)).to.equal(true)
    for (const key of ['\u0001', 'a\u0000', '\u001f', '\ufffe', '\ud800']) expect(fitsXml(key), JSON.stringify(key)).to.equal(false)
    const parsed = new XMLParser({ trimValues: false, htmlEntities: true, parseTagValue: false }).parse(deleteBody(keys)) as { Delete: { Quiet: string; Object: { Key: string }[] } }
    expect(parsed.Delete.Quiet).to.equal('true')
    expect(parsed.Delete.Object.map(({ Key }) => Key)).to.deep.equal(keys)
    expect(parseDeleteErrors(bytes('<DeleteResult xmlns="x"/>'))).to.deep.equal([])
    expect(parseDeleteErrors(bytes(''))).to.deep.equal([])
    expect(parseDeleteErrors(bytes('<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code></Error></DeleteResult>'))).to.deep.equal(['a'])
  })
})
