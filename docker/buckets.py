"""Make the buckets that are missing, and drop uploads that were begun a week ago and never ended.

    python buckets.py BUCKET...

A server that dies in the middle of an upload leaves its parts behind, invisible and for ever. compose.yaml runs this at
every start, in the MLflow image, for boto3. Where S3 is and its keys: AWS_*.
"""

import datetime
import sys

import boto3

s3 = boto3.client("s3")
there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=7)
for name in sys.argv[1:]:
    if name not in there:
        s3.create_bucket(Bucket=name)
        print(f"made bucket {name}")
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=name):
        for upload in page.get("Uploads", []):
            if upload["Initiated"] < old:
                s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
                print(f"dropped an unfinished upload of s3://{name}/{upload['Key']}")
